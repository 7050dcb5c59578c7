package org.mnv3.demo

import android.content.Context
import android.graphics.Bitmap
import android.os.SystemClock
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.mnv3.demo.core.Answer
import org.mnv3.demo.core.Postprocessor
import org.mnv3.demo.core.Preprocessor
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.gpu.GpuDelegate

/** What runs the model. */
enum class Engine { CPU, GPU, MEDIAPIPE }

/** The best classes, and how long it took, in milliseconds. */
data class Result(val answers: List<Answer>, val prepareMs: Double, val runMs: Double)

/** Answers for upright pictures. Used from one thread at a time. */
interface Classifier : AutoCloseable {
    /** Whether it can still be asked: a frame may come after the user chose another engine. */
    val isOpen: Boolean

    fun classify(picture: Bitmap, count: Int): Result
}

/** Opens the model of the bundle; throws where the engine cannot run it, and never falls back to another one in silence. */
fun openClassifier(context: Context, bundle: BundleAssets, engine: Engine, threads: Int): Classifier = when (engine) {
    Engine.CPU -> LiteRtClassifier(bundle, Interpreter.Options().setNumThreads(threads).setUseXNNPACK(true))
    Engine.GPU -> GpuDelegate().let { delegate ->
        try {
            LiteRtClassifier(bundle, Interpreter.Options().addDelegate(delegate), delegate)
        } catch (error: RuntimeException) {
            delegate.close()
            throw error
        }
    }
    Engine.MEDIAPIPE -> MediaPipeClassifier(context, bundle)
}

/** LiteRT, with the bundle's own preprocessing. */
class LiteRtClassifier(
    bundle: BundleAssets,
    options: Interpreter.Options,
    private val delegate: AutoCloseable? = null,
) : Classifier {
    override var isOpen = true
        private set

    private val preprocessor = Preprocessor(bundle.contract)
    private val postprocessor = Postprocessor(bundle.contract, bundle.labels)
    private val interpreter = Interpreter(bundle.model(), options)
    private val output = ByteBuffer.allocateDirect(bundle.contract.output.bytes).order(ByteOrder.nativeOrder())

    override fun classify(picture: Bitmap, count: Int): Result {
        val began = SystemClock.elapsedRealtimeNanos()
        val tensor = preprocessor.tensor(picture.pixels())
        val prepared = SystemClock.elapsedRealtimeNanos()
        val bytes = run(tensor)
        val done = SystemClock.elapsedRealtimeNanos()
        return Result(postprocessor.top(bytes, count), (prepared - began) / 1e6, (done - prepared) / 1e6)
    }

    /** The output's bytes for an input tensor. */
    fun run(tensor: ByteBuffer): ByteBuffer {
        output.rewind()
        interpreter.run(tensor, output)
        return output
    }

    override fun close() {
        isOpen = false
        interpreter.close()
        delegate?.close()
    }
}

/**
 * MediaPipe Tasks, which prepares pictures in its own way and reads the quantization from the model's metadata. It gives what the
 * model gives; where that is logits, probabilities are made from them as for the other engines.
 */
class MediaPipeClassifier(context: Context, bundle: BundleAssets) : Classifier {
    override var isOpen = true
        private set

    private val postprocessor = Postprocessor(bundle.contract, bundle.labels)
    private val classes = bundle.labels.size
    private val classifier = ImageClassifier.createFromOptions(
        context,
        ImageClassifier.ImageClassifierOptions.builder()
            .setBaseOptions(BaseOptions.builder().setModelAssetPath(BundleAssets.MODEL).build())
            .build(),
    )

    override fun classify(picture: Bitmap, count: Int): Result {
        val began = SystemClock.elapsedRealtimeNanos()
        val image = BitmapImageBuilder(picture).build()
        val prepared = SystemClock.elapsedRealtimeNanos()
        val categories = classifier.classify(image).classificationResult().classifications().first().categories()
        val done = SystemClock.elapsedRealtimeNanos()
        val outputs = DoubleArray(classes)
        categories.forEach { outputs[it.index()] = it.score().toDouble() }
        return Result(postprocessor.top(postprocessor.probabilities(outputs), count), (prepared - began) / 1e6, (done - prepared) / 1e6)
    }

    override fun close() {
        isOpen = false
        classifier.close()
    }
}
